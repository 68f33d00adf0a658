"""Why a posting matched: the words that answer each skill of a query, and which skills nothing answers."""
