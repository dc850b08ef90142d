"""The pieces of the attention core; `ablab.attend` is the door."""
