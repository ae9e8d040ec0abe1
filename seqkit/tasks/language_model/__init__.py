"""Language modelling: how likely a text is, and how it goes on."""
