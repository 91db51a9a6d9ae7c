"""A script as people wrote them for vai_q_pytorch: float, calib and test phases, inspection, deployment.

It knows nothing of Quantwright: run it with ``quantwright run --as pytorch_nndct vai_script.py --quant_mode calib``.
"""

# ruff: noqa: T201, UP031
import argparse
import sys

import torch
from examples.digits import data as digits_data
from examples.digits.model import digits
from pytorch_nndct.apis import torch_quantizer

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
parser = argparse.ArgumentParser()
parser.add_argument("--config_file", default=None)
parser.add_argument("--subset_len", default=None, type=int)
parser.add_argument("--batch_size", default=32, type=int)
parser.add_argument("--quant_mode", default="calib", choices=["float", "calib", "test"])
parser.add_argument("--fast_finetune", action="store_true")
parser.add_argument("--deploy", action="store_true")
parser.add_argument("--inspect", action="store_true")
parser.add_argument("--target", nargs="?", const="")
args, _ = parser.parse_known_args()


def loader(part):
    pairs = digits_data.batches(part, args.batch_size)
    return pairs if args.subset_len is None else pairs[: max(1, args.subset_len // args.batch_size)]


def forward_loop(model, batches):
    model.eval()
    model = model.to(device)
    for images, _ in batches:
        model(images.to(device))


def evaluate(model, batches, loss_fn):
    model.eval()
    model = model.to(device)
    right, seen, loss = 0, 0, 0.0
    for images, labels in batches:
        outputs = model(images.to(device))
        loss += loss_fn(outputs, labels.to(device)).item()
        right += (outputs.argmax(1).cpu() == labels).sum().item()
        seen += labels.size(0)
    return right / seen, loss / len(batches)


def quantization():
    model = digits().cpu()
    example = torch.randn([args.batch_size, 1, 24, 24])
    loss_fn = torch.nn.CrossEntropyLoss().to(device)
    if args.quant_mode == "float":
        if args.inspect:
            from pytorch_nndct.apis import Inspector

            Inspector(args.target).inspect(model, (example,), device=device)
            sys.exit()
        print("float accuracy: %g" % evaluate(model, loader("test"), loss_fn)[0])
        return
    quantizer = torch_quantizer(
        args.quant_mode, model, (example), device=device, quant_config_file=args.config_file, target=args.target
    )
    quant_model = quantizer.quant_model
    if args.fast_finetune and args.quant_mode == "calib":
        quantizer.fast_finetune(forward_loop, (quant_model, loader("calibration")))
    elif args.fast_finetune:
        quantizer.load_ft_param()
    if args.quant_mode == "calib":
        forward_loop(quant_model, loader("calibration"))
        quantizer.export_quant_config()
    else:
        accuracy, loss = evaluate(quant_model, loader("test"), loss_fn)
        print("loss: %g" % loss)
        print("top-1 accuracy: %g" % accuracy)
    if args.quant_mode == "test" and args.deploy:
        quantizer.export_torch_script()
        quantizer.export_onnx_model()
        quantizer.export_xmodel()


if __name__ == "__main__":
    print("-------- start")
    quantization()
    print("-------- end")
