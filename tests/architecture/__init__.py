"""Rules that hold for the source itself: import directions, one home each, public names, words."""
