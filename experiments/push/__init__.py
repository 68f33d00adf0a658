"""Publishing a trained model on the Hugging Face hub."""
