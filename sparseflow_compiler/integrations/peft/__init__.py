"""PEFT: its LoRA over packed layers, and merging that keeps a model 2:4. Nothing else imports it."""
