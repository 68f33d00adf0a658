"""Many runs from one command line: which they are, where they are kept, who runs them, and what came out."""
