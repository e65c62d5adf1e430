"""The page: what it shows as blocks of data, and the templates that make HTML of them."""
