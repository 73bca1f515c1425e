"""The doctor's checks, one module each. A check reads only: what is missing or broken."""
