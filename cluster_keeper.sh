#!/bin/bash
# Run by the head of a cluster.local.yaml: gives the token and the checkout to every worker that has no token, so that a
# machine that lost its disk has what its start commands need. Ends with Ray.
exec 9> ~/.cluster_keeper.lock
flock -n 9 || exit 0

connect="ssh -i $HOME/ray_bootstrap_key.pem -o BatchMode=yes -o ConnectTimeout=5 -o StrictHostKeyChecking=no"
connect+=" -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"

while pgrep -x gcs_server > /dev/null; do
  read -r user workers < <(~/env/bin/python - <<'PYTHON'
import pathlib, yaml
config = yaml.safe_load(pathlib.Path("~/ray_bootstrap_config.yaml").expanduser().read_text())
print(config["auth"]["ssh_user"], *config["provider"]["worker_ips"])
PYTHON
  )
  for worker in $workers; do
    $connect "$user@$worker" test -s .ray/auth_token < /dev/null
    [ $? = 1 ] || continue  # 0: it has one; 255: it cannot be reached
    # The token last: with it the start commands go on.
    rsync -a --timeout=60 --rsh "$connect" ~/lacray "$user@$worker:" &&
      rsync -aR --timeout=60 --rsh "$connect" ~/./.ray/auth_token "$user@$worker:" &&
      echo "$(date -Is) $worker has token and checkout again"
  done
  sleep 10
done
