"""Tables as destinations: which columns, how they are filled from landed files, and how each kind merges."""
