"""Position schemes: what a token's place does to attention scores. One file each; the table is the registry."""

from ablab.slot import Slot

slot = Slot(
    "position",
    __name__,
    lists=True,
    aliases={"alibi": "grape_a", "none": "nope"},
    nope="Nope",
    rope="Rope",
    grape_m="GrapeM",
    grape_a="GrapeA",
    fox="Fox",
)
