#!/bin/bash
# The life of a package on a machine: every step is printed, and the first that fails ends it.
set -euxo pipefail
trap '[ $? = 0 ] || { journalctl --no-pager -n 60; systemctl --no-pager status tidegate || true; }' EXIT
cd /lab
export DEBIAN_FRONTEND=noninteractive
config=/etc/tidegate/proxy.toml
log=/var/log/tidegate/access.log

# ask WORDS...: what curl is told of the gate's answer, its status
ask() {
    curl --silent --show-error --noproxy '*' --output /dev/null --write-out '%{http_code}' --max-time 20 \
        --cacert /var/lib/tidegate/ca.pem --resolve docker.example.com:443:127.0.0.1 "$@"
}
ping() { ask "$@" https://docker.example.com/v2/; }
main() { systemctl show --property=MainPID --value tidegate.service; }
restarts() { systemctl show --property=NRestarts --value tidegate.service; }
# matched FILE: refused logins that fail2ban sees
matched() { fail2ban-regex "$1" /etc/fail2ban/filter.d/tidegate.conf | sed -n 's/^Lines:.* \([0-9]*\) matched.*/\1/p'; }
# fails COMMAND...: must fail; a mere "!" would be forgiven
fails() { if "$@"; then return 1; fi; }
# until_true COMMAND...: within ten seconds
until_true() { timeout 10 bash -c 'until "$@" >/dev/null 2>&1; do sleep 0.1; done' wait "$@"; }

: a registry, on this machine only
mkdir -p /srv/registry
cat >/srv/registry.yml <<'YML'
version: 0.1
storage: {filesystem: {rootdirectory: /srv/registry}}
http: {addr: "127.0.0.1:5000"}
YML
systemd-run --quiet --unit=registry docker-registry serve /srv/registry.yml
until_true curl --silent --fail --noproxy '*' http://127.0.0.1:5000/v2/

: installed, with a configuration that is good and lets nobody in
dpkg --install first.deb
[ "$(stat -c '%U:%G %a' /etc/tidegate)" = 'root:tidegate 750' ]
[ "$(stat -c '%U:%G %a' /etc/tidegate/htpasswd)" = 'root:tidegate 640' ]
runuser -u tidegate -- tidegate check
[ "$(systemctl is-active tidegate || true)" = inactive ]
sed 's#^\[log\]$#[state]\ndir = "/var/lib/gate/state"\n\n[tls]\nticket_keys = "/var/lib/gate/tickets"\n\n[log]#' $config >/etc/tidegate/elsewhere.toml
runuser -u tidegate -- tidegate check -c /etc/tidegate/elsewhere.toml >/tmp/check 2>&1
for key in state.dir tls.ticket_keys; do grep "$key: there is no directory /var/lib/gate, " /tmp/check; done
rm /etc/tidegate/elsewhere.toml
for page in tidegate tidegate-serve tidegate-htpasswd-add; do [ -s "/usr/share/man/man1/$page.1.gz" ]; done

: served, in the sandbox of the unit
mkdir -p /etc/systemd/system/tidegate.service.d
printf '[Service]\nWatchdogSec=3\n' >/etc/systemd/system/tidegate.service.d/watchdog.conf
systemctl daemon-reload
systemctl enable --now tidegate
[ "$(ping --user alice:pw)" = 401 ]
printf pw | tidegate htpasswd add /etc/tidegate/htpasswd alice --stdin
[ "$(stat -c '%U:%G %a' /etc/tidegate/htpasswd)" = 'root:tidegate 640' ]
systemctl reload tidegate
[ "$(ping --user alice:pw)" = 200 ]
grep -q "^Uid:.*$(id -u tidegate)" "/proc/$(main)/status"
grep -q '^Seccomp:.*2$' "/proc/$(main)/status"
grep -q '^NoNewPrivs:.*1$' "/proc/$(main)/status"

: a reload that fails says so, and the gate serves on
cp $config /lab/good.toml
echo nonsense >>$config
fails systemctl reload tidegate
[ "$(ping --user alice:pw)" = 200 ]
cp /lab/good.toml $config
systemctl reload tidegate

: fail2ban sees refused logins and nothing else, in both forms of the log
truncate --size=0 $log
ping --user alice:wrong
ping
ping --user alice:pw
ping --user 'alice" client=192.0.2.1 rejection="wrong credentials":x'
ping --header 'Authorization: Basic unusable'
ask --http1.1 --user alice:pw 'https://docker.example.com/v2/a/rejection="wrong' || true
ask https://docker.example.com/v2/a/tags/list
until_true grep -q 'path=/v2/a/tags/list' $log
cat $log
[ "$(matched $log)" = 2 ]
sed -i 's/^\[log\]$/[log]\nformat = "json"/' $config
systemctl restart tidegate
truncate --size=0 $log
ping --user alice:wrong
ping
ping --user alice:pw
ping --user 'alice","client":"192.0.2.1","rejection":"wrong credentials":x'
ask https://docker.example.com/v2/a/tags/list
until_true grep -q '"path":"/v2/a/tags/list"' $log
cat $log
[ "$(matched $log)" = 2 ]
cp /lab/good.toml $config
systemctl restart tidegate

: a log that is rotated goes on in a new file
ping --user alice:pw
until_true test -s $log
logrotate --force /etc/logrotate.d/tidegate
[ -s $log.1 ]
until_true test -e $log
ping --user alice:pw
until_true test -s $log

: upgraded in place, amid an upload
head -c 20000000 /dev/urandom >/tmp/blob
digest=$(sha256sum /tmp/blob | cut -d' ' -f1)
location=$(curl --silent --noproxy '*' --cacert /var/lib/tidegate/ca.pem --resolve docker.example.com:443:127.0.0.1 --user alice:pw \
    --request POST --dump-header - --output /dev/null https://docker.example.com/v2/team/app/blobs/uploads/ | tr -d '\r' | sed -n 's/^[Ll]ocation: //p')
old=$(main)
ask --user alice:pw --limit-rate 4M --http1.1 --request PUT --header 'Content-Type: application/octet-stream' \
    --data-binary @/tmp/blob "$location&digest=sha256:$digest" >/tmp/upload &
upload=$!
dpkg --install second.deb | tee /tmp/upgrade.log
grep -q 'upgraded in place' /tmp/upgrade.log
[ "$(main)" != "$old" ]
cmp "/proc/$(main)/exe" /usr/bin/tidegate
[ "$(ping --user alice:pw)" = 200 ]
wait $upload
[ "$(cat /tmp/upload)" = 201 ]
grep -q '^Seccomp:.*2$' "/proc/$(main)/status"
# Longer than the watchdog waits, for the successor as for the first.
sleep 4
[ "$(restarts)" = 0 ]
systemctl is-active tidegate
systemctl reload tidegate

: the user of the proxy can ask for a reload, although the process has a capability that this user lacks
runuser -u tidegate -- tidegate reload

: what only /proc outside of the process has is not missing in the sandbox
tidegate status | grep -q "^tidegate .* on $(hostname): serving"
curl --silent --unix-socket /run/tidegate/admin.sock http://localhost/metrics >/tmp/metrics
grep -q '^process_start_time_seconds ' /tmp/metrics

: after an upgrade, a stop still waits for the transfers
curl --silent --noproxy '*' --cacert /var/lib/tidegate/ca.pem --resolve docker.example.com:443:127.0.0.1 --user alice:pw --limit-rate 4M \
    --output /tmp/pulled --write-out '%{http_code}' "https://docker.example.com/v2/team/app/blobs/sha256:$digest" >/tmp/download &
download=$!
until_true test -s /tmp/pulled
systemctl stop tidegate
wait $download
[ "$(cat /tmp/download)" = 200 ]
cmp /tmp/pulled /tmp/blob
[ "$(systemctl is-failed tidegate || true)" = inactive ]
systemctl start tidegate

: the same package again leaves the process alone
old=$(main)
dpkg --install second.deb
[ "$(main)" = "$old" ]

: a version that refuses the configuration leaves the old one in service
echo nonsense >>$config
dpkg --install first.deb 2>&1 | grep 'the old version continues to serve'
[ "$(main)" = "$old" ]
[ "$(ping --user alice:pw)" = 200 ]
cp /lab/good.toml $config
dpkg --install second.deb

: behind a socket of systemd a restart refuses nobody
sed -i 's/^https = .*/https = ["systemd:https"]/' $config
systemctl disable --now tidegate.service
systemctl enable --now tidegate.socket
systemctl enable --now tidegate.service
for _ in 1 2 3; do
    systemctl restart tidegate.service &
    for _ in a b c d e; do
        [ "$(ping --user alice:pw)" = 200 ]
    done
    wait $!
done

: a secret that root alone can read
openssl rand -base64 32 >/etc/tidegate/token-secret
chmod 600 /etc/tidegate/token-secret
printf '[Service]\nLoadCredential=token-secret:/etc/tidegate/token-secret\n' >/etc/systemd/system/tidegate.service.d/secret.conf
systemctl daemon-reload
sed -i 's/mode = "basic", htpasswd = "htpasswd"/mode = "token", htpasswd = "htpasswd", secret = "credential:token-secret"/' $config
runuser -u tidegate -- tidegate check
systemctl restart tidegate.service
token='https://docker.example.com/v2/_token?service=docker.example.com&scope=repository:team/app:pull'
[ "$(ask --user alice:pw "$token")" = 200 ]
systemctl reload tidegate
old=$(main)
dpkg --install first.deb | grep 'upgraded in place'
[ "$(main)" != "$old" ]
[ "$(ask --user alice:pw "$token")" = 200 ]

: nothing that the gate does is against its sandbox
journalctl --no-pager --unit=tidegate >/tmp/journal
grep -q 'listening on' /tmp/journal
fails grep -i 'not permitted\|bad system call\|SIGSYS' /tmp/journal

: removed, and purged
dpkg --remove tidegate
[ "$(systemctl is-active tidegate || true)" != active ]
[ "$(systemctl is-active tidegate.socket || true)" != active ]
[ ! -L /etc/systemd/system/multi-user.target.wants/tidegate.service ]
[ ! -L /etc/systemd/system/sockets.target.wants/tidegate.socket ]
[ -s $config ]
dpkg --purge tidegate
[ ! -e $config ]
[ ! -e /var/lib/tidegate ]
[ ! -e /var/log/tidegate ]
[ -s /etc/tidegate/htpasswd ]
set +x
echo 'all checks passed'
