"""What runs where and when: command line, settings, plan, placement and the Ray sweep."""
