"""Programs of explicit steps, the compilers of their partitions, and what runs them."""
