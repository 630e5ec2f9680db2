"""A model of each family trained on real images, with numbers and a picture."""
