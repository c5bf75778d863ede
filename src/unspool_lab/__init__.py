"""The lab: a textbook's claims about recurrent networks as experiments that anyone can run in a minute or two."""
