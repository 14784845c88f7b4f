"""Parts that all use cases need: sagas, events, background work, admission of boots."""
