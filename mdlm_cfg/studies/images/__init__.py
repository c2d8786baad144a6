"""Binary images: samples beside held-out data."""
