"""The firewall: nftables rules as text, applied, watched and put back."""
