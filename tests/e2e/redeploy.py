"""A program: joins a running cluster as another driver and hands Serve the application anew, with the settings given as JSON.

Run it with the environment of one of the cluster's processes: ``python -m tests.e2e.redeploy ADDRESS SETTINGS``.
"""

import json
import logging
import sys

import ray
from ray import serve

from attendant_server.config import Settings
from attendant_server.hosting.serve import make_application

if __name__ == "__main__":
    address, settings = sys.argv[1], Settings.model_validate(json.loads(sys.argv[2]))
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    target = serve.RunTarget(target=make_application(settings), name="attendant", route_prefix="/")
    serve.run_many([target], wait_for_applications_running=True)
    ray.shutdown()
