"""Users' containers, from their VM's boot to their removal."""
