"""scikit-learn's multilayer perceptrons on fcnet's engines: ``fcnet.MLPClassifier`` and ``fcnet.MLPRegressor``."""
