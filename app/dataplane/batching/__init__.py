"""Which requests of a tensor model leave together, when, and how rows are put together and taken apart."""
