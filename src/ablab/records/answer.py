"""What verdict.json says, as its readers may rely on it."""

# Numbers and words of the verdict that its readers compare with. `verdict` imports nothing of ours, so they stand twice;
# tests/test_house.py holds the two equal.
POWER = 0.80
FEWEST_DOCUMENTS = 20  # effective ones
NEVER = "further seeds call it better only if its reference diverges, too"
