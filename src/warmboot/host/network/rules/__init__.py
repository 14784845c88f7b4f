"""The firewall: nftables rules as text, applied, monitored and restored."""
