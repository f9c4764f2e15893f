"""Dice, surface Dice and their averages."""
