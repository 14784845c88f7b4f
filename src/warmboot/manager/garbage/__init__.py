"""What nobody needs any more: chosen and removed."""
