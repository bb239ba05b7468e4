"""What every experiment shares: configuration, data, training, tracking, claims, figures."""
