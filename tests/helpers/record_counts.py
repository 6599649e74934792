"""The records, and their parameter counts."""

COUNTS = {
    "pr194": 26_502_232, "pr315": 26_829_913, "pr332": 27_618_913, "pr531": 27_878_489, "pr534": 25_224_291,
    "pr1493": 35_944_536, "pr1855": 35_945_671, "pr2135": 35_945_673,
}  # fmt: skip
RECORDS = ("pr194", "pr315", "pr332", "pr531", "pr534", "pr1493")
"""Those whose steps are rows of one length."""
