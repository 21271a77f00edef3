"""Who is let in: a queue bounded in tokens, and no work that cannot meet its deadline by what the engine's own steps say."""
