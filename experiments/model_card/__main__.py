"""The model card of a finished run: `python -m experiments.model_card outputs/...`."""

from experiments.model_card.card import main

if __name__ == "__main__":
    main()
