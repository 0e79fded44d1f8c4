"""Keras 3 on jax: one ``fit`` with a callback that tests after each epoch and ends it."""

import epochs
import keras

settings, sizes = epochs.SETTINGS, epochs.SIZES
keras.utils.set_random_seed(settings["seed"])
X, y = epochs.rows("train")
X_test, y_test = epochs.rows("test")


class Test(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        answers = self.model.predict(X_test, batch_size=len(X_test), verbose=0).argmax(axis=1)
        self.model.stop_training = epochs.report((answers == y_test).mean())


layers: list[keras.Layer] = [keras.Input((sizes[0],))]
for n_out in sizes[1:-1]:
    layers.append(keras.layers.Dense(n_out, settings["activation"]))
    if settings["p_dropout"]:
        layers.append(keras.layers.Dropout(settings["p_dropout"]))
model = keras.Sequential([*layers, keras.layers.Dense(10)])
kind = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam}[settings["optimizer"]]
model.compile(
    optimizer=kind(settings["learning_rate"]),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    jit_compile=True,
    steps_per_execution=100,
)
model.fit(X, y, settings["batch"], epochs=settings["epochs"], verbose=0, shuffle=True, callbacks=[Test()])
