"""Runtime images: registered, checked, chosen, and their guest agent renewed."""
