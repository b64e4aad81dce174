"""Persona prediction: whose message is this? Names masked, texts, representations, likelihoods."""
