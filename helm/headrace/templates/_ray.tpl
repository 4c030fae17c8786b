{{/*
Ray's pods. Any change of one of these templates costs a second Ray cluster, with its GPUs: nothing in them follows the
chart's version, its labels, its models, or the settings of other pods (those of replicas travel in serveConfigV2).
The operator adds the command, liveness, shared memory, and on the head Ray's autoscaler.
*/}}

{{/* (dict "root" $ "component" "ray-worker" "group" "cpu"); also what selects them. */}}
{{- define "headrace.ray.labels" -}}
{{ include "headrace.selector" . }}
{{- with .group }}
headrace.io/group: {{ . | quote }}
{{- end }}
{{- end }}

{{/* The API server's token is the autoscaler's alone (headrace.ray.autoscaler). */}}
{{- define "headrace.ray.pod" -}}
serviceAccountName: {{ include "headrace.ray.serviceAccount" . | quote }}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: {{ int64 .Values.ray.terminationGracePeriodSeconds }}
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.global.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Where: (dict "of" <values> "tolerations" <more of them> "nodeSelector" <more of it>). */}}
{{- define "headrace.ray.placement" -}}
{{- with merge (dict) (default (dict) .of.nodeSelector) (default (dict) .nodeSelector) }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with concat (default (list) .of.tolerations) (default (list) .tolerations) }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "headrace.ray.container" -}}
image: {{ include "headrace.image" (dict "root" . "image" .Values.image.replica) | quote }}
imagePullPolicy: {{ .Values.image.replica.pullPolicy }}
securityContext:
  {{- toYaml .Values.containerSecurityContext | nindent 2 }}
env:
  {{- include "headrace.container.env" . | trim | nindent 2 }}
  {{- include "headrace.ray.env" . | trim | nindent 2 }}
{{- end }}

{{/*
One more variable of a container that asks for no device of NVIDIA's: (dict "resources" …). The image names all GPUs, and on a
node that has some the container runtime would hand them over, unasked: Ray would count them, and `device: auto` take one.
*/}}
{{- define "headrace.ray.env.blind" -}}
{{- if not (regexMatch "nvidia\\.com/" (toJson .resources)) -}}
- {name: NVIDIA_VISIBLE_DEVICES, value: void}
{{- end -}}
{{- end }}

{{/* serve_config.ENVIRONMENT, which Ray reads at import, and what only pods need. */}}
{{- define "headrace.ray.env" -}}
- {name: HOME, value: /var/lib/headrace}
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
- {name: RAY_SERVE_LOG_TO_STDERR, value: "0"}
- {name: RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS, value: "1"}
- {name: RAY_worker_niceness, value: "0"}
- {name: RAY_DEDUP_LOGS, value: "0"}
- {name: RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO, value: "0"}
- name: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S
  value: {{ int64 .Values.ray.nodeDrainSeconds | quote }}
{{- with .Values.ray.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The root is read-only: sessions, sockets and logs of Ray go to /tmp, caches to HOME. */}}
{{- define "headrace.ray.mounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: home, mountPath: /var/lib/headrace}
{{- end }}

{{- define "headrace.ray.volumes" -}}
- {name: tmp, emptyDir: {}}
- {name: home, emptyDir: {}}
{{- end }}

{{/* Only replicas open ports of ours, so only workers hold the certificate. */}}
{{- define "headrace.ray.tls.mount" -}}
{{- if .Values.tls.secretName }}
- {name: tls, mountPath: /etc/headrace/tls, readOnly: true}
{{- end }}
{{- end }}

{{- define "headrace.ray.tls.volume" -}}
{{- with .Values.tls.secretName }}
- name: tls
  secret:
    secretName: {{ . | quote }}
    defaultMode: 0440
    items:
      - {key: tls.crt, path: tls.crt}
      - {key: tls.key, path: tls.key}
      - {key: ca.crt, path: ca.crt}
{{- end }}
{{- end }}

{{/* Read-only from a claim; or a folder of the pod's, into which replicas fetch their version; or what the image holds. */}}
{{- define "headrace.ray.models.mount" -}}
{{- if .Values.modelStore.uri }}
- {name: models, mountPath: {{ .Values.modelStore.mountPath | quote }}}
{{- else if .Values.modelStore.existingClaim }}
- name: models
  mountPath: {{ .Values.modelStore.mountPath | quote }}
  readOnly: true
  {{- with .Values.modelStore.subPath }}
  subPath: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "headrace.ray.models.volume" -}}
{{- if .Values.modelStore.uri }}
- {name: models, emptyDir: {}}
{{- else if .Values.modelStore.existingClaim }}
- name: models
  persistentVolumeClaim: {claimName: {{ .Values.modelStore.existingClaim | quote }}, readOnly: true}
{{- end }}
{{- end }}

{{/* Of a group's container: what it says, and as many GPUs as it says, limit and request alike. */}}
{{- define "headrace.ray.resources" -}}
{{- $gpus := dict -}}
{{- if .gpus -}}
{{- $gpus = dict "nvidia.com/gpu" (int64 .gpus) -}}
{{- end -}}
{{- $resources := default (dict) .resources -}}
{{- $limits := merge (dict) $gpus (default (dict) $resources.limits) -}}
{{- $requests := merge (dict) $gpus (default (dict) $resources.requests) -}}
{{ toYaml (dict "limits" $limits "requests" $requests) }}
{{- end }}

{{/* Ray's autoscaler runs beside the head, in the head's image; it alone may ask the API server. */}}
{{- define "headrace.ray.autoscaler" -}}
version: v2
upscalingMode: Default
idleTimeoutSeconds: {{ int64 .Values.ray.autoscaler.idleTimeoutSeconds }}
imagePullPolicy: {{ .Values.image.replica.pullPolicy }}
resources:
  {{- toYaml .Values.ray.autoscaler.resources | nindent 2 }}
securityContext:
  {{- toYaml .Values.containerSecurityContext | nindent 2 }}
env:
  - {name: HOME, value: /var/lib/headrace}
volumeMounts:
  {{- include "headrace.ray.mounts" . | nindent 2 }}
  - {name: api-access, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
{{- end }}

{{- define "headrace.ray.autoscaler.volume" -}}
- name: api-access
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken: {path: token, expirationSeconds: 3607}
      - configMap:
          name: kube-root-ca.crt
          items: [{key: ca.crt, path: ca.crt}]
      - downwardAPI:
          items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]
{{- end }}
