"""A Flask application as tutorials write it: one global interpreter, and the development server with its threads."""

import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from flask import Flask, jsonify, request

app = Flask(__name__)
interpreter = Interpreter(model_path=sys.argv[1])
interpreter.allocate_tensors()
input_details = interpreter.get_input_details()
output_details = interpreter.get_output_details()


@app.get("/ready")
def ready():
    """Say so."""
    return "ok"


@app.post("/predict")
def predict():
    """Run the model."""
    data = np.array(request.get_json()["data"], dtype=np.int8).reshape(input_details[0]["shape"])
    interpreter.set_tensor(input_details[0]["index"], data)
    interpreter.invoke()
    return jsonify({"data": interpreter.get_tensor(output_details[0]["index"]).tolist()})


if __name__ == "__main__":
    app.run(host="127.0.0.1", port=int(sys.argv[2]))
