"""How good the images are: a judge that reads them, and how far they are from real ones, beside real ones themselves."""
