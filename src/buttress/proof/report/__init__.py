"""What a run looks like: a page that needs no script, no font and no network."""
