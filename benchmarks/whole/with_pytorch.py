"""PyTorch: rows in a new order once an epoch, batches as views of them, the fused optimizer."""

import itertools

import epochs
import torch
from torch import nn
from torch.nn import functional

settings, sizes = epochs.SETTINGS, epochs.SIZES
device = settings.get("device", "cpu").replace("gpu", "cuda")
torch.manual_seed(settings["seed"])
torch.set_float32_matmul_precision("high")
layers: list[nn.Module] = []
for n_in, n_out in itertools.pairwise(sizes[:-1]):
    layers += [nn.Linear(n_in, n_out), nn.ReLU() if settings["activation"] == "relu" else nn.Sigmoid()]
    if settings["p_dropout"]:
        layers.append(nn.Dropout(settings["p_dropout"]))
network = nn.Sequential(*layers, nn.Linear(sizes[-2], 10)).to(device)
kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[settings["optimizer"]]
optimizer = kind(network.parameters(), lr=settings["learning_rate"], fused=True)
X, y = (torch.from_numpy(array).to(device) for array in epochs.rows("train"))
X_test, y_test = (torch.from_numpy(array).to(device) for array in epochs.rows("test"))
for _ in range(settings["epochs"]):
    network.train()
    order = torch.randperm(len(X), device=device)
    for X_batch, y_batch in zip(X[order].split(settings["batch"]), y[order].split(settings["batch"]), strict=True):
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(network(X_batch), y_batch).backward()
        optimizer.step()
    network.eval()
    with torch.inference_mode():
        accuracy = (network(X_test).argmax(dim=1) == y_test).float().mean()
    if epochs.report(accuracy):
        break
