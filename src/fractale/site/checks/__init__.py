"""The doctor's checks, one module each. A check only reads; it reports missing or broken things."""
