"""The embedded data set: job postings and messy skill queries, generated from words kept in YAML."""
