"""What a run leaves behind and shows, and reading it back."""
