"""The pieces of the attention core; `ablab.model.attention.attend` is the door."""
