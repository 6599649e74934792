import pgolf_core.recipes.rules  # noqa: F401 - whoever reads a recipe holds it against the rules
