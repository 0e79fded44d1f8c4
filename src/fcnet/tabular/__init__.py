"""Tables as people have them: columns to features, the default recipe, ``TabularClassifier`` and ``TabularRegressor``."""
