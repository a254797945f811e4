package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// On the pod template: a change of the configuration rolls the pods.
	configHash = "apps.windlass.dev/config-hash"
	// On the Deployment: hash of all that is wanted of it.
	wantedHash = "apps.windlass.dev/wanted-hash"
	portName   = "http"
)

// child is one object that a WebApp may consist of. Its fields are set one by one, so that what the API server filled in stays
// and an object that is as it should be compares equal: the usual care with CreateOrUpdate.
type child struct {
	empty  func() client.Object
	wanted bool
	set    func(client.Object)
}

// childrenOf are the same five objects as those of plugins/webapp/src/children.rs, in the same order.
func childrenOf(app *WebApp) []child {
	return []child{
		{func() client.Object { return &corev1.ConfigMap{} }, len(app.Spec.Config) > 0, func(o client.Object) {
			o.(*corev1.ConfigMap).Data = maps.Clone(app.Spec.Config)
		}},
		{func() client.Object { return &appsv1.Deployment{} }, true, func(o client.Object) {
			setDeployment(app, o.(*appsv1.Deployment))
		}},
		{func() client.Object { return &corev1.Service{} }, true, func(o client.Object) {
			setService(app, o.(*corev1.Service))
		}},
		{func() client.Object { return &networkingv1.Ingress{} }, app.Spec.Host != "", func(o client.Object) {
			setIngress(app, o.(*networkingv1.Ingress))
		}},
		{func() client.Object { return &policyv1.PodDisruptionBudget{} }, app.Spec.Replicas > 1, func(o client.Object) {
			one := intstr.FromInt32(1)
			budget := o.(*policyv1.PodDisruptionBudget)
			budget.Spec.MaxUnavailable = &one
			budget.Spec.Selector = &metav1.LabelSelector{MatchLabels: app.selector()}
		}},
	}
}

func setDeployment(app *WebApp, deployment *appsv1.Deployment) {
	if deployment.Annotations == nil {
		deployment.Annotations = map[string]string{}
	}
	deployment.Annotations[wantedHash] = wantedHashOf(app)
	replicas, none, one, no := app.Spec.Replicas, intstr.FromInt32(0), intstr.FromInt32(1), false
	spec := &deployment.Spec
	spec.Replicas = &replicas
	spec.Selector = &metav1.LabelSelector{MatchLabels: app.selector()}
	spec.Strategy = appsv1.DeploymentStrategy{
		Type:          appsv1.RollingUpdateDeploymentStrategyType,
		RollingUpdate: &appsv1.RollingUpdateDeployment{MaxUnavailable: &none, MaxSurge: &one},
	}
	spec.Template.Labels = app.labels()
	if spec.Template.Annotations == nil {
		spec.Template.Annotations = map[string]string{}
	}
	spec.Template.Annotations[configHash] = hashOf(app.Spec.Config)
	pod := &spec.Template.Spec
	pod.AutomountServiceAccountToken = &no
	yes := true
	pod.SecurityContext = &corev1.PodSecurityContext{
		RunAsNonRoot:   &yes,
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	if len(pod.Containers) != 1 {
		pod.Containers = make([]corev1.Container, 1)
	}
	setContainer(app, &pod.Containers[0])
}

func setContainer(app *WebApp, container *corev1.Container) {
	no := false
	container.Name = "app"
	container.Image = app.Spec.Image
	container.Ports = []corev1.ContainerPort{
		{Name: portName, ContainerPort: app.Spec.Port, Protocol: corev1.ProtocolTCP},
	}
	container.Resources.Requests = app.Spec.Resources.Requests.DeepCopy()
	container.Resources.Limits = app.Spec.Resources.Limits.DeepCopy()
	container.ReadinessProbe = probe(container.ReadinessProbe, 0)
	container.LivenessProbe = probe(container.LivenessProbe, 10)
	container.SecurityContext = &corev1.SecurityContext{
		AllowPrivilegeEscalation: &no,
		Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
	}
	container.EnvFrom = nil
	if len(app.Spec.Config) > 0 {
		reference := corev1.LocalObjectReference{Name: app.Name}
		container.EnvFrom = []corev1.EnvFromSource{
			{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: reference}},
		}
	}
}

func probe(existing *corev1.Probe, initialDelay int32) *corev1.Probe {
	if existing == nil {
		existing = &corev1.Probe{}
	}
	existing.ProbeHandler = corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromString(portName)}}
	existing.InitialDelaySeconds = initialDelay
	return existing
}

func setService(app *WebApp, service *corev1.Service) {
	service.Spec.Selector = app.selector()
	if len(service.Spec.Ports) != 1 {
		service.Spec.Ports = make([]corev1.ServicePort, 1)
	}
	port := &service.Spec.Ports[0]
	port.Name = portName
	port.Port = 80
	port.TargetPort = intstr.FromString(portName)
	port.Protocol = corev1.ProtocolTCP
}

func setIngress(app *WebApp, ingress *networkingv1.Ingress) {
	prefix := networkingv1.PathTypePrefix
	backend := networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{
		Name: app.Name,
		Port: networkingv1.ServiceBackendPort{Name: portName},
	}}
	ingress.Spec.Rules = []networkingv1.IngressRule{{
		Host: app.Spec.Host,
		IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{
			Paths: []networkingv1.HTTPIngressPath{{Path: "/", PathType: &prefix, Backend: backend}},
		}},
	}}
}

// wantedHashOf is the hash of a Deployment as nothing but this operator wants it.
func wantedHashOf(app *WebApp) string {
	container := map[string]any{
		"name": "app", "image": app.Spec.Image, "port": app.Spec.Port, "resources": app.Spec.Resources,
	}
	return hashOf(map[string]any{
		"labels": app.labels(), "replicas": app.Spec.Replicas, "config": app.Spec.Config, "container": container,
	})
}

// hashOf is the FNV-1a hash of the data's JSON: what the guest SDK's hash_of gives for the same data.
func hashOf(data any) string {
	if config, isConfig := data.(map[string]string); isConfig && config == nil {
		data = map[string]string{}
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(data); err != nil {
		// Maps of strings and quantities always have a JSON form.
		panic(err)
	}
	hash := fnv.New64a()
	hash.Write(bytes.TrimRight(text.Bytes(), "\n"))
	return fmt.Sprintf("%016x", hash.Sum64())
}
