"""fcnet: ``train`` with a callback that ends it."""

import itertools

import epochs

import fcnet
from fcnet.initializers import glorot_uniform, he_normal, zeros

settings, sizes = epochs.SETTINGS, epochs.SIZES
p_dropout = settings["p_dropout"]
weights = he_normal if settings["activation"] == "relu" else glorot_uniform
layers = [
    fcnet.FullyConnectedLayer(
        n_in, n_out, getattr(fcnet, settings["activation"]), p_dropout if index else 0.0, weights, zeros
    )
    for index, (n_in, n_out) in enumerate(itertools.pairwise(sizes[:-1]))
]
network = fcnet.Network(
    [*layers, fcnet.SoftmaxLayer(sizes[-2], 10, p_dropout, weights, zeros)], settings["batch"], settings["seed"]
)
fcnet.train(
    network,
    epochs.rows("train"),
    test=epochs.rows("test"),
    epochs=settings["epochs"],
    optimizer={"sgd": fcnet.SGD, "adam": fcnet.Adam}[settings["optimizer"]](settings["learning_rate"]),
    seed=settings["seed"],
    device=settings.get("device", "cpu"),
    callbacks=[lambda record: epochs.report(record.test_accuracy)],
    verbose=False,
)
