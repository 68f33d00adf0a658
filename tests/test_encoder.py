def test_a(tiny_encoder):
    e=tiny_encoder.encode(["Python developer","nurse in a hospital","chef!"]); print(e@e.T, tiny_encoder._tokenize(["Python dev-3","é"]), tiny_encoder.max_length)
