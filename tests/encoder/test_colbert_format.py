"""Folders of late-interaction models: ours elsewhere, and those of three other libraries here, with the same scores."""

QUERIES = ["python, developer", "the nurse of the hospital, 6 years, nights, and no kitchen", "chef"]
DOCUMENTS = ["data engineer. python!", "a nurse; years, and years, of the job in a hospital and in a kitchen", "chef"]
DENSE, MASK, TRANSFORMER = "1_Dense/config.json", "2_MultiVectorMask/config.json", "sentence_bert_config.json"
