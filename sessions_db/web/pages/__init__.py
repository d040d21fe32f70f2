"""The pages, a module each: what it reads, and what its template gets."""
