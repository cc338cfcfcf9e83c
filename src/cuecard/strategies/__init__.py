"""Who speaks when: the strategies, over a team that is given to them."""
