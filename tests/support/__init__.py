"""What tests share: private servers and small images."""
