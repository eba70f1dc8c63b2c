"""What a run is made of: base models, fine-tuning, answers to questions."""
