"""Images, binary or of grey levels: samples beside held-out data."""
